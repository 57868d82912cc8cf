// What is in each cart, and how it ended: the plugin `cart-summary` in JavaScript, with the same documents as the one in Rust.
//
// A stream is a cart. The collection `cart_summary` has one document for each, under the stream's id: `items`, the number of items in it,
// `total`, their price in cents, and `status`, which is `open`, `checked-out` or `abandoned`.

import { documents, natural } from 'sandmill';

export const { description, projector } = documents({
  id: 'cart-summary',
  version: '0.1.0',
  collection: 'cart_summary',
  initial: { items: 0, total: 0, status: 'open' },
  events: {
    ItemAdded(cart, data) {
      const [quantity, price] = [natural(data, 'quantity'), natural(data, 'price')];
      return { ...cart, items: cart.items + quantity, total: cart.total + quantity * price };
    },
    // A cart never holds less than nothing, whatever is taken out of it.
    ItemRemoved(cart, data) {
      const [quantity, price] = [natural(data, 'quantity'), natural(data, 'price')];
      return { ...cart, items: Math.max(0, cart.items - quantity), total: Math.max(0, cart.total - quantity * price) };
    },
    CartCheckedOut: (cart) => ({ ...cart, status: 'checked-out' }),
    CartAbandoned: (cart) => ({ ...cart, status: 'abandoned' }),
  },
});
